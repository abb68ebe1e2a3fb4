"""Run folders, tables and figures as one self-contained page."""
