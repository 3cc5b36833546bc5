"""The nuScenes metric: its tables, and the same by condition, distance and subset."""
