"""DeepSentinel: Sentinel-1 and Sentinel-2 archives as general-purpose embeddings of the land surface."""

__version__ = '0.1.0'
