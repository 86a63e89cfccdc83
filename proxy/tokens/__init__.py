"""Passwords that somebody else makes: programs and clouds."""
