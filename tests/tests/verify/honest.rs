//! A broker that keeps the promise is not accused, whatever happens to connections and to its process.

use std::time::Duration;

use tokio::time::sleep;

use crate::check::Check;
use crate::double::{Cut, Freeze, Honest, Proxy};
use crate::start;

#[tokio::test]
async fn a_broker_that_is_left_alone() {
    let broker = start();
    for version in ["3.1.1", "5"] {
        let outcome = Check::start(&[broker.mqtt()], &["--version", version])
            .outcome()
            .await;
        outcome.assert_held();
        for seen in ["retained_reads", "wills_delivered", "shared_delivered"] {
            assert!(outcome.count(seen) > 0, "{seen} is 0 in {:#}", outcome.json);
        }
        assert_eq!(outcome.count("reconnects"), 0);
        assert_eq!(outcome.count("wills_due"), outcome.count("wills_delivered"));
        assert_eq!(
            outcome.count("shared_acknowledged"),
            outcome.count("shared_delivered")
        );
    }
}

#[tokio::test]
async fn every_subscriber_may_take_every_topic() {
    let broker = start();
    let outcome = Check::start(&[broker.mqtt()], &["--fan-out"]).outcome().await;
    assert_eq!(outcome.json["verdict"], "held");
    assert_eq!(2 * outcome.count("acknowledged"), outcome.count("delivered"));
}

/// Connections end at any packet, over two addresses of the same broker.
#[tokio::test]
async fn connections_that_end() {
    for version in ["3.1.1", "5"] {
        let broker = start();
        let proxies = [
            Proxy::start(broker.mqtt(), Cut::new(151)).await,
            Proxy::start(broker.mqtt(), Cut::new(97)).await,
        ];
        let targets = proxies.each_ref().map(Proxy::address);
        let outcome = Check::start(&targets, &["--version", version]).outcome().await;
        outcome.assert_held();
        assert!(outcome.count("reconnects") > 20, "{:#}", outcome.json);
    }
}

/// One of two addresses falls silent, as that of a node that is paused or cut off.
#[tokio::test]
async fn an_address_that_falls_silent() {
    let broker = start();
    let proxies = [
        Proxy::start(broker.mqtt(), Freeze::after(3_000)).await,
        Proxy::start(broker.mqtt(), Freeze::after(u64::MAX)).await,
    ];
    let targets = proxies.each_ref().map(Proxy::address);
    let arguments = ["--duration", "4s", "--drain-wait", "10s", "--silence", "1s"];
    let outcome = Check::start(&targets, &arguments).outcome().await;
    outcome.assert_held();
    assert!(outcome.count("reconnects") > 0, "{:#}", outcome.json);
    assert!(outcome.count("longest_wait_ms") >= 900, "{:#}", outcome.json);
}

/// The process is killed, and started again on the same data, while clients work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_and_started_again() {
    let mut broker = start();
    let proxy = Proxy::start(broker.mqtt(), Honest).await;
    let check = Check::start(&[proxy.address()], &["--duration", "5s", "--drain-wait", "10s"]);
    for _ in 0..2 {
        sleep(Duration::from_millis(1_500)).await;
        broker.crash_and_restart();
        proxy.set_upstream(broker.mqtt());
    }
    let outcome = check.outcome().await;
    outcome.assert_held();
    assert!(outcome.count("reconnects") > 0, "{:#}", outcome.json);
}
