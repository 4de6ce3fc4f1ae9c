"""Folders in object storage, copied in and out."""
