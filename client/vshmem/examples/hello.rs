//! Two threads of control meet in a segment, a set and a queue. Run `vshmem serve &` first; run it twice at once, in two domains, to see them meet.

use std::sync::atomic::{AtomicU64, Ordering};
use vshmem::{Key, Queue, Segment, SemaphoreSet};

fn main() -> Result<(), vshmem::Error> {
    let me = vshmem::connect()?;
    println!("in domain {} as client {}", me.domain, me.client);
    let segment = Segment::options()
        .key(Key::new(0x1234))
        .create(true)
        .size(4096)
        .open()?;
    let visits = segment.view::<AtomicU64>(0)?.fetch_add(1, Ordering::Relaxed) + 1;
    println!("visit {visits} to segment {}", segment.id());
    let set = SemaphoreSet::options()
        .key(Key::new(0x1234))
        .create(true)
        .semaphores(1)
        .open()?;
    set.post(0)?;
    set.wait(0)?;
    println!("semaphore 0 is {}", set.value(0)?);
    let queue = Queue::options().key(Key::new(0x1234)).create(true).open()?;
    queue.send(7, format!("visit {visits}").as_bytes())?;
    let message = queue.receive(64)?;
    println!(
        "type {}: {}",
        message.mtype,
        String::from_utf8_lossy(&message.text)
    );
    Ok(())
}
