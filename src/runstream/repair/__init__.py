"""Repair a namespace or an archive, for operators: verify, restore, resolve, quarantine, required archives."""
