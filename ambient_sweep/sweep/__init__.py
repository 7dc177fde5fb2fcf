"""The sweep: many trials on Ray, searched by Optuna. Only this package and the command line import Ray.

`space` and `run` come without Ray until a sweep really starts, so that a sweep file can be checked in no time.
"""
