"""Servers that do what RemoteGPU's hot paths do, as one would write them with other tools."""
