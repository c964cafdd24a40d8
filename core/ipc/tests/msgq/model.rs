//! Random sequences of operations beside a plain queue.

use crate::player::{CONTROL, Player, audit, grow, queue_memory, stat};
use proptest::prelude::*;
use std::collections::VecDeque;
use vshmem_ipc::Sweep;
use vshmem_ipc::msgq::{MsgError, Queue, ReceiveFlags};

#[derive(Debug, Clone)]
enum Op {
    Send {
        mtype: i64,
        len: usize,
    },
    Receive {
        msgtyp: i64,
        room: usize,
        noerror: bool,
        except: bool,
        copy: bool,
    },
    Limit(u64),
    Sweep,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![4 => 0usize..130, 1 => 1000usize..1100, 1 => 0usize..9000];
    let send = (1i64..12, len.clone()).prop_map(|(mtype, len)| Op::Send { mtype, len });
    let msgtyp = prop_oneof![3 => -14i64..14, 1 => Just(0), 1 => Just(i64::MIN)];
    let receive = (
        msgtyp,
        prop_oneof![4 => Just(9000), 1 => len],
        any::<bool>(),
        any::<bool>(),
        0..6,
    )
        .prop_map(|(msgtyp, room, noerror, except, copy)| Op::Receive {
            msgtyp,
            room,
            noerror,
            except,
            copy: copy == 0,
        });
    prop_oneof![
        12 => send,
        10 => receive,
        1 => prop_oneof![0u64..20, 100u64..30000].prop_map(Op::Limit),
        1 => Just(Op::Sweep),
    ]
}

/// A queue as the man page has it.
#[derive(Default)]
struct Plain {
    messages: VecDeque<(i64, Vec<u8>)>,
    limit: u64,
}

impl Plain {
    fn bytes(&self) -> u64 {
        self.messages.iter().map(|m| m.1.len() as u64).sum()
    }
    fn send(&mut self, mtype: i64, text: &[u8]) -> Result<(), MsgError> {
        if self.bytes() + text.len() as u64 > self.limit || self.messages.len() as u64 + 1 > self.limit {
            return Err(MsgError::Again);
        }
        self.messages.push_back((mtype, text.to_vec()));
        Ok(())
    }
    fn receive(&mut self, msgtyp: i64, room: usize, flags: ReceiveFlags) -> Result<(i64, Vec<u8>), MsgError> {
        let types = || self.messages.iter().map(|m| m.0);
        let at = if flags.copy {
            (0..types().count()).find(|&i| i as i64 == msgtyp)
        } else if msgtyp == 0 {
            (!self.messages.is_empty()).then_some(0)
        } else if msgtyp < 0 {
            let lowest = types()
                .min()
                .filter(|&t| t <= msgtyp.checked_neg().unwrap_or(i64::MAX));
            lowest.and_then(|lowest| types().position(|t| t == lowest))
        } else {
            types().position(|t| (t == msgtyp) != flags.except)
        };
        let at = at.ok_or(MsgError::NoMessage)?;
        if self.messages[at].1.len() > room && !flags.noerror {
            return Err(MsgError::TooBig);
        }
        let (mtype, mut text) = match flags.copy {
            true => self.messages[at].clone(),
            false => self.messages.remove(at).unwrap(),
        };
        text.truncate(room);
        Ok((mtype, text))
    }
}

fn run(ops: &[Op]) {
    let heap = queue_memory(16384);
    let queue = Queue::at(&heap);
    let player = Player::new(2);
    let mut plain = Plain {
        limit: 16384,
        ..Plain::default()
    };
    for (i, op) in ops.iter().enumerate() {
        match *op {
            Op::Send { mtype, len } => {
                let text: Vec<u8> = (0..len).map(|j| (i * 7 + j) as u8).collect();
                let mut sent = queue.send(&player, CONTROL, mtype, &text, true);
                if let Err(MsgError::NeedExtent(wanted)) = sent {
                    grow(&heap, wanted);
                    sent = queue.send(&player, CONTROL, mtype, &text, true);
                }
                assert_eq!(sent, plain.send(mtype, &text));
            }
            Op::Receive {
                msgtyp,
                room,
                noerror,
                except,
                copy,
            } => {
                let flags = ReceiveFlags {
                    nowait: true,
                    noerror,
                    except,
                    copy,
                };
                let mut into = vec![0; room];
                let got = queue.receive(&player, CONTROL, &mut into, msgtyp, flags);
                let got = got.map(|got| (got.mtype, into[..got.len].to_vec()));
                assert_eq!(got, plain.receive(msgtyp, room, flags));
            }
            Op::Limit(limit) => {
                queue.set_qbytes(&Player::new(1), limit).unwrap();
                plain.limit = limit;
            }
            Op::Sweep => assert_eq!(queue.sweep(&Player::new(1), 3), Ok(Sweep::Done)),
        }
        audit(&heap);
        let now = stat(&heap);
        assert_eq!(
            (now.qnum, now.cbytes),
            (plain.messages.len() as u64, plain.bytes())
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_queue_behaves_as_the_man_page_says(ops in prop::collection::vec(op(), 1..120)) {
        run(&ops);
    }
}

#[test]
fn ten_thousand_messages_of_a_thousand_types() {
    let heap = queue_memory(1 << 20);
    let queue = Queue::at(&heap);
    let player = Player::new(2);
    heap.grow(1 << 20);
    let mtype = |i: i64| i * 7919 % 1000 + 1;
    let sent = (0..7000)
        .take_while(|&i| {
            queue
                .send(&player, CONTROL, mtype(i), &[i as u8; 8], true)
                .is_ok()
        })
        .count() as i64;
    assert_eq!(sent, 7000);
    audit(&heap);
    queue.sweep(&Player::new(1), 9).unwrap();
    audit(&heap);
    let mut into = [0; 8];
    for t in (1..=1000).rev() {
        let mut left = (0..sent).filter(|&i| mtype(i) == t);
        let got = queue.receive(
            &player,
            CONTROL,
            &mut into,
            t,
            ReceiveFlags {
                nowait: true,
                ..ReceiveFlags::default()
            },
        );
        assert_eq!(got.map(|got| got.mtype).ok(), left.next().map(|_| t));
    }
    audit(&heap);
}
