"""What a Redis store does, as generators over exchanges; see :mod:`runstream.stores.redis.exchange`."""
