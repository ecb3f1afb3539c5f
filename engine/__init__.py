"""The same method, faster and safer; no equation stands only here."""
