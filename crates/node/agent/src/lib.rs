//! Pods onto container, image and network: lifecycle, probes, volumes, streams.
