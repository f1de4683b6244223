//! Parts of publishes in random logs.

use super::steps::Part;
use super::*;

impl World {
    pub(super) fn part_command(&self, part: &Part) -> Command {
        let (number, origin) = (u64::from(part.client % 2), self.origin_of_part(part));
        let mut targets: Vec<_> = part.targets.iter().map(|queue| to(self.queue(*queue))).collect();
        if part.first {
            let publish = PublishCommand {
                origin,
                message: message("part"),
                targets,
                set_retained: part.stale,
                taken_live: part.last,
            };
            return Command::PublishFirst { number, publish };
        }
        let after = part.after.map(|queue| self.queue(queue));
        targets.retain(|target| Some(&target.queue) > after.as_ref());
        Command::PublishMore(PublishPart {
            number,
            origin,
            after,
            targets,
            last: part.last,
        })
    }

    fn origin_of_part(&self, part: &Part) -> Origin {
        let (session, epoch) = self.connection(part.client, part.stale);
        let due = self.first.due_wills().next();
        match (part.kind, due) {
            (kind @ 0..3, _) => Origin::Session {
                session,
                epoch,
                packet_id: NonZeroU16::new(u16::from(kind)),
            },
            (3, Some(due)) => Origin::Will {
                session: due.session,
                epoch: due.epoch,
            },
            (4, _) => live_will(u64::from(part.client)),
            _ => Origin::Server,
        }
    }
}
