"""Vector and residual quantisers put together from strategies."""
