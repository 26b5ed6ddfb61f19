use super::*;
use crate::{
    events::{What, event::tests::sandbox},
    sandbox::Tenant,
};

const SOON: Duration = Duration::from_secs(10);

fn new(path: &str) -> New {
    let what = What::FileDeleted { path: path.into() };
    New::of(sandbox(), Tenant::default(), "base", what)
}

fn path(event: &Event) -> &str {
    match &event.what {
        What::FileDeleted { path } => path,
        what => panic!("{what:?}"),
    }
}

fn room(events: usize) -> Room {
    Room { events, ..Room::default() }
}

async fn next(subscription: &mut Subscription) -> String {
    match tokio::time::timeout(SOON, subscription.next()).await.unwrap() {
        Next::Event(event) => path(&event).to_owned(),
        other => format!("{other:?}"),
    }
}

fn lost(events: &Events) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    events.each_lost(|name, lost| all.push((name.to_owned(), lost)));
    all
}

#[tokio::test]
async fn each_hears_what_it_wants_in_the_order_in_which_it_was_told() {
    let events = Events::default();
    assert!(!events.wants(Kind::FileDeleted));
    let first = events.emit(new("before"));
    let mut files = events.subscribe("files", "file.*".parse().unwrap(), Room::default());
    let mut others = events.subscribe("others", "exec.*".parse().unwrap(), Room::default());
    assert!(events.wants(Kind::FileDeleted) && !events.wants(Kind::CostTotal));
    let second = events.emit(new("a").parent(first));
    let third = events.emit(new("b"));
    assert!(first < second && second < third);
    let Next::Event(a) = files.next().await else { panic!() };
    assert_eq!((path(&a), a.id, a.parent), ("a", second, Some(first)));
    assert_eq!(next(&mut files).await, "b");
    assert_eq!(others.waiting(), 0);
    drop(files);
    assert!(!events.wants(Kind::FileDeleted));
    let told: Vec<_> = events.told().filter(|(_, count)| *count > 0).collect();
    assert_eq!(told, [(Kind::FileDeleted, 3)]);
    events.close();
    assert_eq!(next(&mut others).await, "Closed");
    let mut late = events.subscribe("late", Types::all(), Room::default());
    assert_eq!(next(&mut late).await, "Closed");
}

#[tokio::test]
async fn whoever_is_slow_loses_its_own_oldest_and_hears_of_it() {
    let events = Events::default();
    let mut slow = events.subscribe("slow", Types::all(), room(3));
    let mut fast = events.subscribe("fast", Types::all(), room(100));
    for n in 0..10 {
        events.emit(new(&n.to_string()));
    }
    assert_eq!(next(&mut slow).await, "Lost(7)");
    for n in 7..10 {
        assert_eq!(next(&mut slow).await, n.to_string());
    }
    let batch = fast.batch(100, Duration::ZERO).await;
    assert_eq!((batch.events.len(), batch.lost, batch.closed), (10, 0, false));
    assert_eq!(lost(&events), [("fast".to_owned(), 0), ("slow".to_owned(), 7)]);
}

#[tokio::test]
async fn what_waits_is_bounded_in_bytes_and_one_event_is_always_kept() {
    let events = Events::default();
    let room = Room { events: 100, bytes: 5000 };
    let mut one = events.subscribe("one", Types::all(), room);
    for letter in ["a", "b", "c"] {
        events.emit(new(&letter.repeat(2000)));
    }
    assert_eq!((one.waiting(), one.ring.waiting.lock().bytes), (2, 4800));
    events.emit(new(&"d".repeat(100_000)));
    assert_eq!(next(&mut one).await, "Lost(3)");
    assert!(next(&mut one).await.starts_with("dd"));
    assert_eq!(one.ring.waiting.lock().bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_full_or_as_old_as_it_may_be() {
    let events = Events::default();
    let mut some = events.subscribe("some", Types::all(), room(5));
    let wait = Duration::from_secs(5);
    let began = Instant::now();
    let (batch, ()) = tokio::join!(some.batch(100, wait), async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        events.emit(new("a"));
        tokio::time::sleep(Duration::from_secs(2)).await;
        events.emit(new("b"));
    });
    assert_eq!((batch.events.len(), began.elapsed().as_secs()), (2, 65));
    let (batch, ()) = tokio::join!(some.batch(3, wait), async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            events.emit(new("c"));
        }
    });
    assert_eq!((batch.events.len(), began.elapsed().as_secs()), (3, 68));
    // With more wanted than there is room for, a full ring is a batch.
    let (batch, ()) = tokio::join!(some.batch(100, wait), async {
        for _ in 0..5 {
            events.emit(new("d"));
        }
    });
    assert_eq!((batch.events.len(), began.elapsed().as_secs()), (5, 68));
    events.emit(new("e"));
    events.close();
    let batch = some.batch(100, wait).await;
    assert_eq!((batch.events.len(), batch.closed, began.elapsed().as_secs()), (1, true, 68));
    let batch = some.batch(100, wait).await;
    assert!(batch.events.is_empty() && batch.closed);
}

#[test]
fn ids_rise_however_many_there_are_and_wherever_the_clock_goes() {
    let mut ids = Ids::default();
    let mut last = ids.next(1000);
    for now in std::iter::repeat_n(1000, 5000).chain([900, 1001, 1002, 1001, 5000, 1]) {
        let next = ids.next(now);
        assert!(next > last, "{last} {next}");
        last = next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_tell_at_once_lose_nothing_and_all_hear_the_same_order() {
    const EACH: usize = 2000;
    let events = Events::default();
    let room = Room { events: 4 * EACH, bytes: usize::MAX };
    let subscribers = [(); 2].map(|()| events.subscribe("all", Types::all(), room));
    let tellers = (0..4).map(|teller| {
        let events = events.clone();
        tokio::spawn(async move {
            for n in 0..EACH {
                events.emit(new(&format!("{teller} {n}")));
                if n % 100 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        })
    });
    let readers = subscribers.map(|mut all| {
        tokio::spawn(async move {
            let mut heard = Vec::new();
            while heard.len() < 4 * EACH {
                heard.extend(all.batch(100, Duration::from_millis(1)).await.events);
            }
            heard
        })
    });
    futures_util::future::join_all(tellers.collect::<Vec<_>>()).await;
    let [a, b] = readers;
    let (a, b) =
        tokio::time::timeout(SOON, async { (a.await.unwrap(), b.await.unwrap()) }).await.unwrap();
    assert!(a.iter().zip(&b).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert!(a.is_sorted_by_key(|event| event.id));
    assert_eq!(lost(&events), [("all".to_owned(), 0)]);
}
