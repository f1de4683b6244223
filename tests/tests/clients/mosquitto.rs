//! `mosquitto_pub` and `mosquitto_sub`, as the README uses them.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::{broker, run};

const VERSIONS: [&str; 3] = ["mqttv31", "mqttv311", "mqttv5"];

/// A tool, with the broker's address and the version. Through `stdbuf`, as it would keep its lines back from a pipe.
fn tool(name: &str, version: &str) -> Command {
    let broker = broker();
    let mut command = Command::new("stdbuf");
    command.args([
        "-oL",
        name,
        "-h",
        "127.0.0.1",
        "-p",
        &broker.mqtt().port().to_string(),
        "-V",
        version,
    ]);
    command
}

/// `mosquitto_sub`, running and subscribed.
struct Subscriber {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Subscriber {
    fn start(version: &str, arguments: &[&str]) -> Self {
        let mut subscriber = Self::resume(version, arguments);
        let subscribed = subscriber
            .lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.starts_with("Subscribed"));
        assert!(
            subscribed,
            "mosquitto_sub {arguments:?} did not subscribe: is it installed (Debian: mosquitto-clients)?"
        );
        subscriber
    }

    /// Without waiting for the subscription: it exists, and messages of it may come first.
    fn resume(version: &str, arguments: &[&str]) -> Self {
        let mut command = tool("mosquitto_sub", version);
        // With -d it says when it is subscribed; -W ends it where a message does not come.
        command
            .args(arguments)
            .args(["-d", "-W", "30"])
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("stdbuf is there");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    /// The messages it prints until it ends by itself.
    fn messages(mut self) -> Vec<String> {
        let lines = self
            .lines
            .map_while(Result::ok)
            .filter(|line| line.starts_with("got "));
        let messages = lines.map(|line| line["got ".len()..].to_owned()).collect();
        let status = self.child.wait().expect("the child is ours");
        assert!(status.success(), "{status}, messages {messages:?}");
        messages
    }
}

fn publish(version: &str, arguments: &[&str]) {
    let mut command = tool("mosquitto_pub", version);
    command.args(arguments);
    run(command);
}

#[test]
fn mosquitto_publishes_and_subscribes() {
    for version in VERSIONS {
        let topic = format!("mosquitto/{version}");
        let arguments = ["-t", &topic, "-q", "2", "-C", "3", "-F", "got %q %p"];
        let subscriber = Subscriber::start(version, &arguments);
        for qos in ["0", "1", "2"] {
            publish(version, &["-t", &topic, "-q", qos, "-m", "hello"]);
        }
        assert_eq!(subscriber.messages(), ["0 hello", "1 hello", "2 hello"]);
    }
}

#[test]
fn mosquitto_gets_retained_messages() {
    for version in VERSIONS {
        let topic = format!("mosquitto/retained/{version}");
        publish(version, &["-t", &topic, "-q", "1", "-r", "-m", "kept"]);
        let subscriber = Subscriber::start(version, &["-t", &topic, "-q", "1", "-C", "1", "-F", "got %r %p"]);
        assert_eq!(subscriber.messages(), ["1 kept"]);
        publish(version, &["-t", &topic, "-r", "-n"]);
    }
}

#[test]
fn mosquitto_finds_what_waited_for_its_session() {
    for version in VERSIONS {
        let topic = format!("mosquitto/absent/{version}");
        let id = format!("mosquitto-{version}");
        let mut session = vec!["-i", &id, "-c", "-t", &topic, "-q", "1", "-F", "got %p"];
        if version == "mqttv5" {
            session.extend(["-x", "60"]);
        }
        let mut subscriber = Subscriber::start(version, &session);
        // -E ends after the SUBACK in later versions of the tool; killing does in all.
        subscriber.child.kill().expect("the child is ours");
        subscriber.child.wait().expect("the child is ours");
        publish(version, &["-t", &topic, "-q", "1", "-m", "queued"]);
        session.extend(["-C", "1"]);
        assert_eq!(Subscriber::resume(version, &session).messages(), ["queued"]);
    }
}
