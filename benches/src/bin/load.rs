//! Load against any broker: `load pairs` and `load idle`.
//!
//! `pairs`: N publishers, N subscribers, one topic each, a window of unacknowledged publishes; prints delivered messages
//! a second and, given the broker's processes, their CPU microseconds for each delivered message, and what each of them has
//! written for it.
//! `idle`: N connections with one subscription each; prints the broker's resident bytes for each.

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use quorate_benches::client::{Client, Received};
use quorate_benches::disk::SyncProbe;
use quorate_benches::process::Process;
use quorate_proto::codec::{PacketId, PacketType, ProtocolVersion, QoS};

#[derive(Parser)]
struct Arguments {
    /// Address of the broker, or of each of its nodes: publishers and their subscribers are at different ones.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:1883")]
    target: Vec<String>,
    /// Process of the broker, or of each of its nodes; their CPU time is added up.
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,
    /// Speak MQTT 5 instead of 3.1.1.
    #[arg(long)]
    mqtt5: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Publishers and subscribers in pairs.
    Pairs {
        /// Pairs.
        #[arg(long, default_value_t = 20)]
        pairs: usize,
        /// Quality of service, 0 to 2.
        #[arg(long, default_value_t = 1)]
        qos: u8,
        /// Subscribers have sessions that stay, so what they get is stored.
        #[arg(long)]
        durable: bool,
        /// Payload bytes.
        #[arg(long, default_value_t = 64)]
        payload: usize,
        /// Unacknowledged publishes of a publisher.
        #[arg(long, default_value_t = 100)]
        window: usize,
        /// Seconds measured, after one of warming up.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Directory on the broker's disk: how long fdatasync takes there is measured beside the load.
        #[arg(long)]
        sync_dir: Option<PathBuf>,
    },
    /// Connections that do nothing.
    Idle {
        /// Connections.
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
        /// Seconds before the memory is read.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let target = Target {
        addresses: arguments.target,
        version: match arguments.mqtt5 {
            true => ProtocolVersion::V5,
            false => ProtocolVersion::V3_1_1,
        },
    };
    match arguments.command {
        Command::Pairs {
            pairs,
            qos,
            durable,
            payload,
            window,
            seconds,
            sync_dir,
        } => {
            let qos = QoS::from_bits(qos).ok_or(io::ErrorKind::InvalidInput)?;
            let load = Pairs {
                target,
                pairs,
                qos,
                durable,
                payload,
                window,
            };
            let processes = arguments.pid.into_iter().map(Process).collect();
            local.block_on(&runtime, run_pairs(load, processes, seconds, sync_dir))
        }
        Command::Idle { connections, seconds } => {
            let [pid] = arguments.pid[..] else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let process = Process(pid);
            local.block_on(&runtime, run_idle(&target, process, connections, seconds))
        }
    }
}

/// Where the broker listens and what it is spoken to.
struct Target {
    addresses: Vec<String>,
    version: ProtocolVersion,
}

impl Target {
    /// Connects to one of the nodes, counted round.
    async fn connect(&self, node: usize, client_id: &str, durable: bool) -> io::Result<Client> {
        let address = &self.addresses[node % self.addresses.len()];
        Client::connect(address, self.version, client_id, durable).await
    }
}

struct Pairs {
    target: Target,
    pairs: usize,
    qos: QoS,
    durable: bool,
    payload: usize,
    window: usize,
}

async fn run_pairs(
    load: Pairs,
    processes: Vec<Process>,
    seconds: u64,
    sync_dir: Option<PathBuf>,
) -> io::Result<()> {
    let delivered = Rc::new(Cell::new(0u64));
    let mut clients = tokio::task::JoinSet::new();
    for pair in 0..load.pairs {
        let topic = format!("bench/{pair}");
        let subscriber = format!("sub-{pair}");
        let mut subscriber = load.target.connect(pair + 1, &subscriber, load.durable).await?;
        subscriber.subscribe(&topic, load.qos).await?;
        let publisher = load.target.connect(pair, &format!("pub-{pair}"), false).await?;
        clients.spawn_local(subscribe(subscriber, delivered.clone()));
        clients.spawn_local(publish(
            publisher,
            topic,
            load.qos,
            load.payload,
            load.window,
            delivered.clone(),
        ));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let cpu = total(&processes)?;
    let written: Vec<u64> = processes.iter().map(Process::written).collect::<Result<_, _>>()?;
    let probe = sync_dir.as_deref().map(SyncProbe::start).transpose()?;
    let (before, started) = (delivered.get(), Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let messages = delivered.get() - before;
    if let Some(ended) = clients.try_join_next() {
        return ended.map_err(io::Error::other)?;
    }
    let elapsed = started.elapsed();
    println!(
        "messages {messages} rate {:.0}/s",
        messages as f64 / elapsed.as_secs_f64()
    );
    if !processes.is_empty() {
        let used = total(&processes)? - cpu;
        println!(
            "cpu_us_per_message {:.3}",
            used.as_secs_f64() * 1e6 / messages as f64
        );
        for (process, before) in processes.iter().zip(written) {
            let written = process.written()? - before;
            println!(
                "resident_bytes {} written_bytes_per_message {:.0}",
                process.resident()?,
                written as f64 / messages as f64
            );
        }
    }
    if let Some(probe) = probe {
        let times = probe.finish()?;
        println!(
            "fdatasync median {:?} p99 {:?} of {}",
            times.median, times.p99, times.count
        );
    }
    Ok(())
}

/// CPU time of all processes.
fn total(processes: &[Process]) -> io::Result<Duration> {
    processes.iter().map(Process::cpu).sum()
}

async fn subscribe(mut client: Client, delivered: Rc<Cell<u64>>) -> io::Result<()> {
    loop {
        while let Some(received) = client.poll()? {
            match received {
                Received::Publish(qos, packet_id) => {
                    delivered.set(delivered.get() + 1);
                    match (qos, packet_id) {
                        (QoS::AtLeastOnce, Some(id)) => client.acknowledge(PacketType::Puback, id),
                        (QoS::ExactlyOnce, Some(id)) => client.acknowledge(PacketType::Pubrec, id),
                        _ => {}
                    }
                }
                Received::Ack(PacketType::Pubrel, id) => client.acknowledge(PacketType::Pubcomp, id),
                _ => {}
            }
        }
        client.flush().await?;
        client.read().await?;
    }
}

async fn publish(
    mut client: Client,
    topic: String,
    qos: QoS,
    payload: usize,
    window: usize,
    delivered: Rc<Cell<u64>>,
) -> io::Result<()> {
    let payload = vec![b'x'; payload];
    let mut next = 1u16;
    let mut send = |client: &mut Client| {
        let id = PacketId::new(next).unwrap_or(PacketId::MIN);
        next = if next == 60_000 { 1 } else { next + 1 };
        client.publish(&topic, &payload, qos, (qos > QoS::AtMostOnce).then_some(id));
    };
    for _ in 0..window {
        send(&mut client);
    }
    let mut seen = delivered.get();
    loop {
        client.flush().await?;
        if qos == QoS::AtMostOnce {
            // Nothing acknowledges: go on as fast as what arrives somewhere.
            tokio::task::yield_now().await;
            let now = delivered.get();
            for _ in 0..(now - seen).min(window as u64) {
                send(&mut client);
            }
            seen = now;
            continue;
        }
        client.read().await?;
        while let Some(received) = client.poll()? {
            match received {
                Received::Ack(PacketType::Puback | PacketType::Pubcomp, _) => send(&mut client),
                Received::Ack(PacketType::Pubrec, id) => client.acknowledge(PacketType::Pubrel, id),
                _ => {}
            }
        }
    }
}

async fn run_idle(target: &Target, process: Process, connections: usize, seconds: u64) -> io::Result<()> {
    let before = process.resident()?;
    let mut clients = Vec::with_capacity(connections);
    for number in 0..connections {
        let mut client = target.connect(number, &format!("idle-{number}"), false).await?;
        client
            .subscribe(&format!("device/{number}/cmd"), QoS::AtLeastOnce)
            .await?;
        clients.push(client);
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = process.resident()?;
    println!("connections {connections} resident_before {before} resident_after {after}");
    println!(
        "bytes_per_connection {:.0}",
        (after.saturating_sub(before)) as f64 / connections as f64
    );
    Ok(())
}
