//! iceoryx2 at what `bench/programs/exchange.c` measures: a buffer passed to and fro between two processes, and sent and received within one.
//!
//! `vshmem-bench-peers publish|request|pair ROLE SIZE:COUNT...`, with `EXCHANGE_KEY` naming the service. Role 0 begins, measures every exchange, and
//! prints `SIZE COUNT MEAN VARIANCE P50 P90 P99 P999 LEAST MOST` for each size. Receivers look again and again: its fastest way.

use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use std::time::{Duration, Instant};

type Error = Box<dyn std::error::Error>;
type Service = ipc::Service;

/// Exchanges before the clock starts.
const BEFORE: usize = 200;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [way, role, jobs @ ..] = &arguments[..] else {
        return Err("usage: publish|request|pair ROLE SIZE:COUNT...".into());
    };
    let role: usize = role.parse()?;
    let mut sizes = Vec::new();
    for job in jobs {
        let (size, count) = job.split_once(':').ok_or("not SIZE:COUNT")?;
        sizes.push((size.parse()?, count.parse()?));
    }
    let name = format!("vshmem-bench-{}", std::env::var("EXCHANGE_KEY")?);
    set_log_level(LogLevel::Error);
    match way.as_str() {
        "publish" => publish(role, &name, &sizes),
        "request" => request(role, &name, &sizes),
        "pair" => pair(&name, &sizes),
        other => Err(format!("there is no way {other}").into()),
    }
}

fn most(sizes: &[(usize, usize)]) -> usize {
    sizes.iter().map(|s| s.0).max().unwrap_or(1)
}

/// Waits until something is so, not for ever.
fn until(so: impl Fn() -> bool) -> Result<(), Error> {
    let start = Instant::now();
    while !so() {
        if start.elapsed() > Duration::from_secs(20) {
            return Err("the other party did not come".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn send(publisher: &Publisher<Service, [u8], ()>, bytes: &[u8]) -> Result<(), Error> {
    let sample = publisher.loan_slice_uninit(bytes.len())?;
    sample.write_from_slice(bytes).send()?;
    Ok(())
}

fn receive(subscriber: &Subscriber<Service, [u8], ()>, into: &mut [u8]) -> Result<(), Error> {
    loop {
        if let Some(sample) = subscriber.receive()? {
            into.copy_from_slice(&sample);
            return Ok(());
        }
        std::hint::spin_loop();
    }
}

/// Publish and subscribe, a service each way.
fn publish(role: usize, name: &str, sizes: &[(usize, usize)]) -> Result<(), Error> {
    let node = NodeBuilder::new().create::<Service>()?;
    let service = |way: usize| -> Result<_, Error> {
        Ok(node
            .service_builder(&format!("{name}-{way}").as_str().try_into()?)
            .publish_subscribe::<[u8]>()
            .open_or_create()?)
    };
    let (mine, yours) = (service(role)?, service(1 - role)?);
    let publisher = mine.publisher_builder().initial_max_slice_len(most(sizes)).create()?;
    let subscriber = yours.subscriber_builder().create()?;
    until(|| mine.dynamic_config().number_of_subscribers() == 1 && yours.dynamic_config().number_of_publishers() == 1)?;
    for &(size, count) in sizes {
        let mut buffer = vec![0; size];
        if role == 0 {
            measure(size, count, || {
                change(&mut buffer, 1);
                send(&publisher, &buffer)?;
                receive(&subscriber, &mut buffer)
            })?;
        } else {
            for _ in 0..BEFORE + count {
                receive(&subscriber, &mut buffer)?;
                change(&mut buffer, 2);
                send(&publisher, &buffer)?;
            }
        }
    }
    // The other's last sample is in this one's memory.
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

/// Request and response: role 0 is the client.
fn request(role: usize, name: &str, sizes: &[(usize, usize)]) -> Result<(), Error> {
    let node = NodeBuilder::new().create::<Service>()?;
    let service = node
        .service_builder(&name.try_into()?)
        .request_response::<[u8], [u8]>()
        .open_or_create()?;
    if role == 0 {
        let client = service.client_builder().initial_max_slice_len(most(sizes)).create()?;
        until(|| service.dynamic_config().number_of_servers() == 1)?;
        for &(size, count) in sizes {
            let mut buffer = vec![0; size];
            measure(size, count, || {
                change(&mut buffer, 1);
                let request = client.loan_slice_uninit(size)?;
                let pending = request.write_from_slice(&buffer).send()?;
                loop {
                    if let Some(response) = pending.receive()? {
                        buffer.copy_from_slice(&response);
                        return Ok(());
                    }
                    std::hint::spin_loop();
                }
            })?;
        }
    } else {
        let server = service.server_builder().initial_max_slice_len(most(sizes)).create()?;
        until(|| service.dynamic_config().number_of_clients() == 1)?;
        for &(size, count) in sizes {
            let mut buffer = vec![0; size];
            for _ in 0..BEFORE + count {
                let request = loop {
                    match server.receive()? {
                        Some(request) => break request,
                        None => std::hint::spin_loop(),
                    }
                };
                buffer.copy_from_slice(&request);
                change(&mut buffer, 2);
                let response = request.loan_slice_uninit(size)?;
                response.write_from_slice(&buffer).send()?;
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Sent and received within one process.
fn pair(name: &str, sizes: &[(usize, usize)]) -> Result<(), Error> {
    let node = NodeBuilder::new().create::<Service>()?;
    let service = node
        .service_builder(&name.try_into()?)
        .publish_subscribe::<[u8]>()
        .open_or_create()?;
    let publisher = service.publisher_builder().initial_max_slice_len(most(sizes)).create()?;
    let subscriber = service.subscriber_builder().create()?;
    for &(size, count) in sizes {
        let mut buffer = vec![0; size];
        measure(size, count, || {
            change(&mut buffer, 1);
            send(&publisher, &buffer)?;
            receive(&subscriber, &mut buffer)
        })?;
    }
    Ok(())
}

fn change(buffer: &mut [u8], by: u8) {
    for byte in buffer {
        *byte = byte.wrapping_add(by);
    }
}

/// A counter that costs no system call.
fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads a register.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

fn measure(size: usize, count: usize, mut exchange: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
    for _ in 0..BEFORE {
        exchange()?;
    }
    let mut took = Vec::with_capacity(count);
    let (start, first) = (Instant::now(), ticks());
    let mut before = first;
    for _ in 0..count {
        exchange()?;
        let after = ticks();
        took.push((after - before) as f64);
        before = after;
    }
    let scale = start.elapsed().as_nanos() as f64 / (before - first) as f64;
    took.iter_mut().for_each(|t| *t *= scale);
    took.sort_by(f64::total_cmp);
    let mean = took.iter().sum::<f64>() / count as f64;
    let variance = took.iter().map(|t| (t - mean) * (t - mean)).sum::<f64>() / count as f64;
    print!("{size} {count} {mean:.2} {variance:.6e}");
    for part in [0.5, 0.9, 0.99, 0.999] {
        print!(" {:.2}", took[(part * (count - 1) as f64) as usize]);
    }
    println!(" {:.2} {:.2}", took[0], took[count - 1]);
    Ok(())
}
