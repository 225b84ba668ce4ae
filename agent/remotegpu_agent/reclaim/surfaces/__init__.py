"""The places on a host in which a user leaves something, one a file."""
