/* Where random numbers come from: splitmix64, a mixer of the terms of an arithmetic series.
 *
 * Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014.
 */
#include "elementary.h"

#define INCREMENT 0x9e3779b97f4a7c15u

static inline uint64_t mixed(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
