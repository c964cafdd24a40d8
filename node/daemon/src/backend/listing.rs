//! Shows constructs to machines that find them by their port's own means. What changed is shown once a second at most.

use super::Backend;
use vshmem_port::store::Seen;

impl Backend {
    /// A second has passed.
    pub(super) fn show_constructs(&mut self) {
        if !self.unlisted {
            return;
        }
        let mut done = true;
        for group in 0..self.registry.group().names().count() as u16 {
            if !self.stores.of(group).lists() {
                continue;
            }
            let listed = self.registry.listed(group);
            let seen: Vec<Seen<'_>> = listed
                .iter()
                .map(|construct| Seen {
                    kind: construct.kind,
                    id: construct.id,
                    what: construct.what.clone(),
                    by: &construct.by,
                })
                .collect();
            let there = self.registry.domains_of(group);
            done &= self.stores.of_mut(group).list(&there, &seen);
        }
        self.unlisted = !done;
    }
}
