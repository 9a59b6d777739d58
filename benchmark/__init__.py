"""The benchmark: commands, registry, configs, pipeline, runtime, metrics, records."""
