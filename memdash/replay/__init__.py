"""Plays a recorded run to a dashboard, in the dashboard's own process: no socket, no supervisor."""
