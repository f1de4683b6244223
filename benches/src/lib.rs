//! Micro benchmarks and end-to-end load.
