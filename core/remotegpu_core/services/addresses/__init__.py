"""IP addresses of machines: which count, who holds one, and what happens to who comes second.

`scope` says where an address is one machine's, `claims` gives it to one, `quarantine` keeps out who
says that it has another's, `admin` is what admins do about it, `reading` what is shown.
"""
