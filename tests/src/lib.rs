//! What the end-to-end tests share: the broker as a process, clients that send anything, packets as bytes, and the
//! catalogue of the standards' statements.
//!
//! The tests themselves are in `tests/`: `conformance` holds one function per behaviour, run for every protocol version
//! it applies to; `conformance/statements` names for each normative statement the functions that show it.

pub mod broken_rules;
pub mod broker;
pub mod catalogue;
pub mod certificates;
pub mod client;
pub mod cluster;
pub mod metrics;
pub mod network;
pub mod power;
pub mod proxy;
pub mod random;
pub mod scope;
pub mod scram;
pub mod shim;
pub mod transport;
pub mod wire;

pub use wire::Version;

/// Runs one behaviour, an `async fn(Version)`, as one test per protocol version: `each_version!(name: v3_1_1, v5)`.
#[macro_export]
macro_rules! each_version {
    ($name:ident: $($version:ident),+) => {
        mod $name {
            $(
                #[tokio::test]
                async fn $version() {
                    super::$name($crate::each_version!(@$version)).await;
                }
            )+
        }
    };
    ($name:ident) => { $crate::each_version!($name: v3_1, v3_1_1, v5); };
    (@v3_1) => { $crate::Version::V3_1 };
    (@v3_1_1) => { $crate::Version::V3_1_1 };
    (@v5) => { $crate::Version::V5 };
}
