//! How `meta` is stored: one record for each thing.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use quorate_storage::log::GroupId;
use quorate_storage::volume::FIRST_BEGINNING;

use super::proto;
use super::stalls::{stall_body, stall_of};
use super::state::{GroupPlacement, MetaState, NodeRecord, Rejected, Serving, View, group_ids, start_id};
use crate::state::{GroupTime, NodeId, NodeIncarnation};

impl MetaState {
    /// All things as records with their keys.
    pub(super) fn records(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        use proto::record::Body;
        let mut records = BTreeMap::new();
        if !self.founded {
            return records;
        }
        let mut put = |key: Vec<u8>, body: Body| {
            records.insert(key, proto::Record { body: Some(body) }.encode_to_vec());
        };
        let settings = proto::Settings {
            replication_factor: self.replication_factor,
            bootstrap_expect: self.bootstrap_expect,
            next_node: self.next_node,
            feature_level: self.feature_level,
            time_by_wall: self.time_by_wall.0,
        };
        put(b"settings".to_vec(), Body::Settings(settings));
        for (node, record) in &self.nodes {
            let mut key = b"node/".to_vec();
            key.extend(node.0.to_be_bytes());
            put(key, Body::Node(node_record(*node, record)));
        }
        let serving = self.view.serving.iter().map(|(node, serving)| proto::Serving {
            node: node.0,
            incarnation: serving.incarnation.0,
            entered: serving.entered,
            active: serving.active,
            missed: serving.missed,
        });
        let view = proto::View {
            number: self.view.number,
            serving: serving.collect(),
        };
        put(b"view".to_vec(), Body::View(view));
        for (group, placement) in &self.groups {
            let mut key = b"group/".to_vec();
            key.extend(group.0.to_be_bytes());
            let group = proto::Group {
                group: u32::from(group.0),
                replicas: placement.replicas.iter().map(|node| node.0).collect(),
                version: placement.version,
                begun: placement.begun,
            };
            put(key, Body::Group(group));
        }
        for ((node, peer), stall) in &self.stalls {
            let mut key = b"stall/".to_vec();
            key.extend(node.0.to_be_bytes());
            key.extend(peer.0.to_be_bytes());
            put(key, Body::Stall(stall_body((*node, *peer), stall)));
        }
        records
    }

    /// Adds a stored record.
    ///
    /// # Errors
    /// It cannot be decoded.
    pub fn load(&mut self, value: &[u8]) -> Result<(), Rejected> {
        use proto::record::Body;
        let record = proto::Record::decode(value).map_err(|_| Rejected::Malformed)?;
        match record.body.ok_or(Rejected::Malformed)? {
            Body::Settings(settings) => {
                self.founded = true;
                self.replication_factor = settings.replication_factor;
                self.bootstrap_expect = settings.bootstrap_expect;
                self.next_node = settings.next_node;
                self.feature_level = settings.feature_level;
                self.time_by_wall = GroupTime(settings.time_by_wall);
            }
            Body::Node(node) => {
                let record = NodeRecord {
                    volume: node.volume[..].try_into().map_err(|_| Rejected::Malformed)?,
                    name: node.name,
                    address: node.address,
                    incarnation: NodeIncarnation(node.incarnation),
                    ended: node.ended,
                    draining: node.draining,
                    leaving: node.leaving,
                    removed: node.removed,
                    lost_groups: group_ids(&node.lost_groups)?,
                    feature_level: node.feature_level,
                    time_by_wall: GroupTime(node.time_by_wall),
                    start: start_id(&node.start)?,
                };
                self.nodes.insert(NodeId(node.node), record);
            }
            Body::View(view) => {
                let serving = view.serving.iter();
                self.view = View {
                    number: view.number,
                    serving: serving.map(serving_of).collect(),
                };
            }
            Body::Group(group) => {
                let id = GroupId(u16::try_from(group.group).map_err(|_| Rejected::Malformed)?);
                let placement = GroupPlacement {
                    replicas: group.replicas.iter().map(|node| NodeId(*node)).collect(),
                    version: group.version,
                    begun: group.begun.max(FIRST_BEGINNING),
                };
                self.groups.insert(id, placement);
            }
            Body::Stall(stall) => {
                let (between, stall) = stall_of(&stall);
                self.stalls.insert(between, stall);
            }
        }
        Ok(())
    }
}

fn serving_of(serving: &proto::Serving) -> (NodeId, Serving) {
    let read = Serving {
        incarnation: NodeIncarnation(serving.incarnation),
        entered: serving.entered,
        active: serving.active,
        missed: serving.missed,
    };
    (NodeId(serving.node), read)
}

fn node_record(node: NodeId, record: &NodeRecord) -> proto::Node {
    proto::Node {
        node: node.0,
        volume: record.volume.to_vec().into(),
        name: record.name.clone(),
        address: record.address.clone(),
        incarnation: record.incarnation.0,
        draining: record.draining,
        removed: record.removed,
        ended: record.ended,
        leaving: record.leaving,
        feature_level: record.feature_level,
        time_by_wall: record.time_by_wall.0,
        start: record
            .start
            .map_or(Bytes::new(), |start| Bytes::copy_from_slice(&start)),
        lost_groups: record
            .lost_groups
            .iter()
            .map(|group| u32::from(group.0))
            .collect(),
    }
}
