"""The operations of a Redis store and of a namespace, as generators; see :mod:`runstream.operations.operation`."""
