//! rumqttc, at 3.1.1 and 5, over TCP and WebSocket. The two versions are two modules of that crate with the same
//! names, so one macro holds the test for both.

use std::time::Duration;

use rumqttc::Transport;
use tokio::time::timeout;

use super::broker;

/// How long an event may take.
const DEADLINE: Duration = Duration::from_secs(20);

macro_rules! scenario {
    ($($crate_path:ident)::+, $transport:expr, $address:expr, $name:expr, $durable:expr) => {{
        use ::$($crate_path)::+ as version;
        use ::$($crate_path)::+::mqttbytes::QoS;

        /// A client and its connection; `wait_for` polls it until an incoming packet is the one looked for.
        struct Peer {
            client: version::AsyncClient,
            connection: version::EventLoop,
        }

        impl Peer {
            async fn wait_for<T>(&mut self, mut find: impl FnMut(version::Incoming) -> Option<T>) -> T {
                loop {
                    let event = timeout(DEADLINE, self.connection.poll()).await.expect("an event in time");
                    if let version::Event::Incoming(packet) = event.expect("a connection")
                        && let Some(found) = find(packet)
                    {
                        return found;
                    }
                }
            }

            async fn connect(mut options: version::MqttOptions) -> (Self, bool) {
                options.set_keep_alive(Duration::from_secs(10));
                let (client, connection) = version::AsyncClient::new(options, 20);
                let mut peer = Self { client, connection };
                let session_present = peer
                    .wait_for(|packet| match packet {
                        version::Incoming::ConnAck(connack) => Some(connack.session_present),
                        _ => None,
                    })
                    .await;
                (peer, session_present)
            }

            async fn subscribe(&mut self, filter: &str) {
                self.client.subscribe(filter, QoS::ExactlyOnce).await.expect("queued");
                self.wait_for(|packet| matches!(packet, version::Incoming::SubAck(_)).then_some(())).await;
            }

            async fn expect(&mut self, payload: &[u8]) {
                let received = self
                    .wait_for(|packet| match packet {
                        version::Incoming::Publish(publish) => Some(publish.payload.to_vec()),
                        _ => None,
                    })
                    .await;
                assert!(received == payload, "{received:?} instead of {payload:?}");
            }
        }

        let name: String = $name;
        let options = |id: &str| {
            let (host, port): (String, u16) = $address;
            let mut options = version::MqttOptions::new(format!("{name}{id}"), host, port);
            options.set_transport($transport);
            options
        };
        let (mut live, _) = Peer::connect(options("live")).await;
        live.subscribe(&format!("{name}/#")).await;
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            live.client.publish(format!("{name}/x"), qos, false, "live").await.expect("queued");
            live.expect(b"live").await;
        }
        live.client.publish(format!("{name}/x"), QoS::AtLeastOnce, false, vec![b'y'; 8_000]).await.expect("queued");
        live.expect(&[b'y'; 8_000]).await;

        let durable: fn(&mut version::MqttOptions) = $durable;
        for expected in [false, true] {
            let mut options = options("absent");
            durable(&mut options);
            let (mut absent, session_present) = Peer::connect(options).await;
            assert_eq!(session_present, expected);
            if expected {
                absent.expect(b"queued").await;
            } else {
                absent.subscribe(&format!("{name}/absent")).await;
            }
            absent.client.disconnect().await.expect("queued");
            while timeout(DEADLINE, absent.connection.poll()).await.expect("the end in time").is_ok() {}
            if !expected {
                live.client.publish(format!("{name}/absent"), QoS::AtLeastOnce, false, "queued").await.expect("queued");
                live.expect(b"queued").await;
            }
        }
    }};
}

fn durable_3(options: &mut rumqttc::MqttOptions) {
    options.set_clean_session(false);
}

fn durable_5(options: &mut rumqttc::v5::MqttOptions) {
    options
        .set_clean_start(false)
        .set_session_expiry_interval(Some(60));
}

#[tokio::test]
async fn rumqttc_over_tcp() {
    let address = broker().mqtt();
    let host = || (address.ip().to_string(), address.port());
    scenario!(
        rumqttc,
        Transport::Tcp,
        host(),
        "rumqttc-3-tcp".to_owned(),
        durable_3
    );
    scenario!(
        rumqttc::v5,
        Transport::Tcp,
        host(),
        "rumqttc-5-tcp".to_owned(),
        durable_5
    );
}

#[tokio::test]
async fn rumqttc_over_websocket() {
    let address = broker().address("ws");
    let url = || (format!("ws://{address}/mqtt"), address.port());
    scenario!(
        rumqttc,
        Transport::Ws,
        url(),
        "rumqttc-3-ws".to_owned(),
        durable_3
    );
    scenario!(
        rumqttc::v5,
        Transport::Ws,
        url(),
        "rumqttc-5-ws".to_owned(),
        durable_5
    );
}
