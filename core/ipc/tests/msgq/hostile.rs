//! A peer that writes rubbish while operations run: they end, nothing panics, nothing is touched outside the queue.

use crate::player::{CONTROL, NOWAIT, Player, queue_memory};
use vshmem_ipc::msgq::{Queue, ReceiveFlags};
use vshmem_ipc::{State, header};
use vshmem_words::{Heap, Ordering, Scribbled, Words};

/// One life of a queue under a scribbling peer.
fn life(seed: u64, one_in: u64) -> (u32, u32) {
    let heap = queue_memory(4000);
    heap.grow(32768);
    let words = Scribbled::new(heap, seed, one_in);
    let queue = Queue::at(&words);
    let back_end = Player::new(1);
    let (mut fine, mut failed) = (0, 0);
    let mut count = |fine_now: bool| if fine_now { fine += 1 } else { failed += 1 };
    let mut into = vec![0; 3000];
    for i in 0..60 {
        // The back-end keeps its two words right; a client that finds another control word would go and ask.
        CONTROL.store(words.inner());
        words.inner().store64(header::LOCK_AT, 0, Ordering::Relaxed);
        let pick = words.next();
        // While this one sleeps, another process does something, and then it is woken.
        let other = Player::new(3);
        let player = Player::new(2).then(|| {
            words.inner().store64(header::LOCK_AT, 0, Ordering::Relaxed);
            if pick >> 60 < 8 {
                let _ = queue.send(&other, CONTROL, (pick >> 50) as i64 % 9, &[1; 40], true);
            } else {
                let _ = queue.receive(&other, CONTROL, &mut [0; 3000], 0, NOWAIT);
            }
        });
        let flags = ReceiveFlags {
            nowait: pick & 1 == 0,
            noerror: pick & 2 == 0,
            except: pick & 4 == 0,
            copy: pick & 24 == 0,
        };
        let msgtyp = (pick >> 8) as i64 % 9;
        let len = [0, 20, 64, 700, 1100, 2900][(pick >> 40) as usize % 6];
        match pick >> 20 & 15 {
            0..8 => count(
                queue
                    .send(&player, CONTROL, msgtyp, &vec![i; len], flags.nowait)
                    .is_ok(),
            ),
            8..14 => count(
                queue
                    .receive(&player, CONTROL, &mut into[..len], msgtyp, flags)
                    .is_ok(),
            ),
            14 => count(queue.sweep(&back_end, 2).is_ok()),
            _ => {
                count(queue.set_qbytes(&back_end, pick >> 50).is_ok());
                queue.recheck(&back_end);
                queue.stat();
                let _ = queue.audit();
            }
        }
    }
    CONTROL.with_state(State::Removed).store(&words);
    queue.remove(&back_end);
    (fine, failed)
}

#[test]
fn operations_end_whatever_a_peer_writes() {
    let (mut fine, mut failed) = (0, 0);
    for seed in 1..=200 {
        let (a, b) = life(seed * 7919, [20, 60, 200, 1000][seed as usize % 4]);
        fine += a;
        failed += b;
    }
    assert!(
        fine > 500 && failed > 500,
        "{fine} went well, {failed} did not: both are wanted"
    );
}

#[test]
fn nothing_works_in_memory_full_of_anything_and_nothing_breaks() {
    for fill in [0u32, 1, u32::MAX, 0x0101_0101, 26, 0x8000_0000] {
        for len in [0usize, 8, 64, 1664, 1728, 8192] {
            let heap = Heap::new(len);
            for at in (0..len).step_by(4) {
                heap.store32(at, fill, Ordering::Relaxed);
            }
            CONTROL.store(&heap);
            heap.store64(header::LOCK_AT, 0, Ordering::Relaxed);
            let queue = Queue::at(&heap);
            let player = Player::new(2);
            assert!(queue.send(&player, CONTROL, 1, &[1; 100], false).is_err());
            let _ = queue.receive(&player, CONTROL, &mut [0; 100], 0, ReceiveFlags::default());
            let _ = queue.sweep(&player, 3);
            let _ = queue.audit();
            queue.remove(&player);
        }
    }
}
