"""The embedded world: a deterministic Earth as a pure function of (lon, lat, date, seed). See `sources.synthetic`."""
