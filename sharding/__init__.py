"""Packs folders of videos into tar shards, once: annotation files -> VideoRecord -> shards + table + manifest."""
