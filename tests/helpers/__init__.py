"""What several tests share: small screens and models, and plain forms to compare with."""
