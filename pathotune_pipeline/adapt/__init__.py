"""Adapters: small trained parts that change what an unmodified encoder sees and says."""
