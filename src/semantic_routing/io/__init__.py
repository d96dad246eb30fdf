"""The ground floor: files that are whole or absent, JSON lines, images, registries, packaged resources, a chat client.

Nothing here imports torch, and no module here imports a room above it.
"""
