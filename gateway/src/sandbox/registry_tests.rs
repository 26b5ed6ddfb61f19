//! Places, from being reserved to being given back.

use super::*;
use crate::sandbox::{Quota, testing};

fn fill(place: Reservation) -> Result<(), Reservation> {
    let facts = Facts { id: place.id(), ..testing::facts() };
    let sandbox = Sandbox::planned(facts, PathBuf::from("/nowhere"), place.life());
    place.fill(&Arc::new(sandbox), || {})
}

fn reserve(registry: &Arc<Registry>, id: SandboxId, most: usize) -> Option<Reservation> {
    registry.reserve(id, &Owner::default(), most).ok()
}

#[tokio::test]
async fn a_tenant_has_no_more_places_than_it_may_and_waits_for_its_own_to_be_gone() {
    let registry = Arc::new(Registry::default());
    let owner = |name: &str, most| {
        let quota = Quota { max_sandboxes: Some(most), ..Quota::default() };
        Owner { tenant: name.parse().unwrap(), quota }
    };
    let (one, two) = (owner("one", 1), owner("two", 2));
    let (first, second) = (SandboxId::random(), SandboxId::random());
    let place = registry.reserve(first, &one, 3).unwrap();
    assert_eq!(registry.reserve(second, &one, 3).err(), Some(NoPlace::Quota));
    let _others = [(); 2].map(|()| registry.reserve(SandboxId::random(), &two, 3).unwrap());
    assert_eq!(registry.reserve(second, &Owner::default(), 3).err(), Some(NoPlace::Full));
    assert_eq!(registry.tenant(first), Some(one.tenant.clone()));
    drop(place);
    assert_eq!(registry.tenant(first), None);

    let place = registry.reserve(first, &one, 3).unwrap();
    registry.hide(first, &one.tenant);
    assert_eq!(registry.tenant(first), Some(one.tenant.clone()));
    let hour = Duration::from_secs(3600);
    let late = registry.reserve_soon(second, &one, 3, Duration::from_millis(5)).await;
    assert_eq!(late.err(), Some(NoPlace::Quota));
    let (soon, ()) = tokio::join!(registry.reserve_soon(second, &one, 3, hour), async {
        registry.forget(first);
        drop(place);
    });
    assert!(soon.is_ok());
    // What it waits for would be of no use to another tenant.
    registry.hide(second, &one.tenant);
    let refused = registry.reserve_soon(first, &two, 9, hour).await;
    assert_eq!(refused.err(), Some(NoPlace::Quota));
}

#[test]
fn a_place_is_taken_while_a_sandbox_is_made_and_given_back_when_that_fails() {
    let registry = Arc::new(Registry::default());
    let (first, second) = (SandboxId::random(), SandboxId::random());
    let reservation = reserve(&registry, first, 1).unwrap();
    assert!(registry.running(first).is_none());
    assert!(reserve(&registry, second, 1).is_none());
    drop(reservation);
    let reservation = reserve(&registry, second, 1).unwrap();
    assert!(fill(reservation).is_ok());
    assert!(registry.running(second).is_some());
    assert!(reserve(&registry, first, 1).is_none());
    registry.hide(second, &Tenant::default());
    assert!(registry.running(second).is_none() && registry.all_running().is_empty());
    assert!(reserve(&registry, first, 1).is_none(), "it is not gone yet");
    registry.forget(second);
    assert!(reserve(&registry, first, 1).is_some());
}

#[test]
fn a_place_taken_under_another_id_is_one_place() {
    let registry = Arc::new(Registry::default());
    let (first, second) = (SandboxId::random(), SandboxId::random());
    let place = reserve(&registry, first, 1).unwrap().under(second);
    assert_eq!((place.id(), registry.taken()), (second, 1));
    assert!(registry.pending(first).is_none() && registry.pending(second).is_some());
    drop(place);
    assert_eq!(registry.taken(), 0);
    let place = reserve(&registry, first, 1).unwrap().under(second);
    assert!(fill(place).is_ok());
    assert!(registry.running(second).is_some());
    registry.forget(second);
    assert_eq!(registry.places.read().held(&Tenant::default()), 0);
}

#[test]
fn those_being_made_are_counted_until_they_run_or_are_given_up() {
    let registry = Arc::new(Registry::default());
    let ids = [SandboxId::random(), SandboxId::random()];
    let [first, second] = ids.map(|id| reserve(&registry, id, 9).unwrap());
    assert_eq!(registry.being_made(), 2);
    assert!(fill(first).is_ok());
    assert_eq!(registry.being_made(), 1);
    drop(second);
    assert_eq!(registry.being_made(), 0);
    assert_eq!(registry.taken(), 1);
}

#[tokio::test]
async fn whoever_waits_for_a_quiet_moment_has_it_when_the_last_one_is_made() {
    let registry = Arc::new(Registry::default());
    let ids = [SandboxId::random(), SandboxId::random()];
    let [first, second] = ids.map(|id| reserve(&registry, id, 9).unwrap());
    let quiet = tokio::spawn({
        let registry = registry.clone();
        async move { registry.quiet_for(Duration::from_millis(1)).await }
    });
    tokio::task::yield_now().await;
    assert!(fill(first).is_ok());
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!quiet.is_finished());
    drop(second);
    tokio::time::timeout(Duration::from_secs(5), quiet).await.unwrap().unwrap();
}

#[test]
fn a_sandbox_abandoned_while_it_is_made_never_becomes_visible() {
    let registry = Arc::new(Registry::default());
    let id = SandboxId::random();
    let reservation = reserve(&registry, id, 1).unwrap();
    let gone = registry.abandon(id, Reason::User).unwrap();
    let Err(reservation) = fill(reservation) else { panic!("became visible") };
    assert!(registry.running(id).is_none() && !gone.is_cancelled());
    drop(reservation);
    assert!(gone.is_cancelled());
}
