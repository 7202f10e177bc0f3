"""The terminal: commands, what they print, how their errors end."""
