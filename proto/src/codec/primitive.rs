//! The wire's primitive types: integers, variable byte integers, UTF-8 strings, binary data [MQTT5 1.5].
