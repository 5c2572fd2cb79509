//! The history of definitions: numbered, pruned, and gone with its VM.

use super::*;

const KEEP: u64 = 50;

fn vm() -> Uuid {
    Uuid::from_u128(1)
}

fn new(hash: u64, cause: Option<DefinitionCause>) -> DefinitionChange {
    DefinitionChange::New(NewDefinition {
        vm: vm(),
        at: Timestamp::now(),
        cause,
        hash,
        xml: format!("<domain>{hash}</domain>"),
    })
}

fn by(task: u128) -> Option<DefinitionCause> {
    Some(DefinitionCause {
        principal: "unix:root".to_owned(),
        task: Uuid::from_u128(task),
        operation: "vm.update".to_owned(),
    })
}

async fn save(store: &Store, changes: Vec<DefinitionChange>, keep: u64) {
    store.save_definitions(changes, keep).await.unwrap();
}

async fn numbers(store: &Store) -> Vec<u64> {
    let (versions, total) = store.definitions(vm(), None, 100).await.unwrap();
    assert_eq!(versions.len() as u64, total);
    versions.iter().map(|version| version.number).collect()
}

async fn xml(store: &Store, number: u64) -> Option<String> {
    store.definition(vm(), number).await.unwrap().map(|content| content.xml)
}

#[tokio::test]
async fn a_version_comes_back_with_its_number_and_its_cause() {
    let (_folder, path) = place();
    let store = open(&path);
    save(&store, vec![new(1, None), new(u64::MAX, by(7))], KEEP).await;
    let (versions, total) = store.definitions(vm(), None, 100).await.unwrap();
    assert_eq!((versions.len(), total), (2, 2));
    let [second, first] = &versions[..] else { panic!("{versions:?}") };
    assert_eq!((first.number, &first.by, first.task, &first.operation), (1, &None, None, &None));
    assert_eq!((second.number, second.by.as_deref()), (2, Some("unix:root")));
    assert_eq!(second.task, Some(Uuid::from_u128(7)));
    assert_eq!(second.operation.as_deref(), Some("vm.update"));
    let content = store.definition(vm(), 2).await.unwrap().unwrap();
    assert_eq!(content.version, *second);
    assert_eq!(content.xml.len() as u64, second.bytes);
    assert_eq!(store.definition(vm(), 3).await.unwrap(), None);
    assert_eq!(store.definition(vm(), u64::MAX).await.unwrap(), None);
    assert_eq!(store.definition(Uuid::nil(), 1).await.unwrap(), None);
    assert_eq!(store.definition_heads().await.unwrap(), [(vm(), u64::MAX)]);
    // Also with the next start.
    store.close().await;
    let store = open(&path);
    assert_eq!(numbers(&store).await, [2, 1]);
    assert_eq!(store.definition_heads().await.unwrap(), [(vm(), u64::MAX)]);
}

#[tokio::test]
async fn versions_are_paged_by_their_numbers() {
    let (_folder, path) = place();
    let store = open(&path);
    save(&store, (1..=5).map(|hash| new(hash, None)).collect(), KEEP).await;
    let page = async |before, limit| {
        let (versions, total) = store.definitions(vm(), before, limit).await.unwrap();
        assert_eq!(total, 5);
        versions.iter().map(|version| version.number).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 2).await, [5, 4]);
    assert_eq!(page(Some(4), 2).await, [3, 2]);
    assert_eq!(page(Some(2), 2).await, [1]);
    assert_eq!(page(Some(1), 2).await, [0u64; 0]);
    assert_eq!(page(Some(u64::MAX), 1).await, [5]);
}

#[tokio::test]
async fn the_oldest_versions_go_and_their_numbers_are_not_given_again() {
    let (_folder, path) = place();
    let store = open(&path);
    save(&store, (1..=5).map(|hash| new(hash, None)).collect(), 2).await;
    assert_eq!(numbers(&store).await, [5, 4]);
    save(&store, vec![new(6, None)], 1).await;
    assert_eq!(numbers(&store).await, [6]);
    save(&store, vec![new(7, None)], 3).await;
    assert_eq!(numbers(&store).await, [7, 6]);
}

#[tokio::test]
async fn one_operation_makes_one_version_however_often_it_stores() {
    let (_folder, path) = place();
    let store = open(&path);
    save(&store, vec![new(1, None), new(2, by(7)), new(3, by(7))], KEEP).await;
    assert_eq!(numbers(&store).await, [2, 1]);
    assert_eq!(xml(&store, 2).await.unwrap(), "<domain>3</domain>");
    // What it puts back has not been changed.
    save(&store, vec![new(4, by(8)), new(3, by(8))], KEEP).await;
    assert_eq!(numbers(&store).await, [2, 1]);
    assert_eq!(store.definition_heads().await.unwrap(), [(vm(), 3)]);
    save(&store, vec![new(5, None)], KEEP).await;
    assert_eq!(numbers(&store).await, [4, 2, 1], "the third was seen for a moment");
    // Others' changes are never one.
    save(&store, vec![new(6, None), new(5, None)], KEEP).await;
    assert_eq!(numbers(&store).await, [6, 5, 4, 2, 1]);
    // Somebody else's change in between ends it.
    save(&store, vec![new(7, by(9)), new(8, None), new(9, by(9))], KEEP).await;
    assert_eq!(numbers(&store).await, [9, 8, 7, 6, 5, 4, 2, 1]);
}

#[tokio::test]
async fn a_history_goes_with_its_vm_and_only_with_it() {
    let (_folder, path) = place();
    let store = open(&path);
    let other = Uuid::from_u128(2);
    let of_other = DefinitionChange::New(NewDefinition {
        vm: other,
        at: Timestamp::now(),
        cause: None,
        hash: 9,
        xml: "<domain/>".to_owned(),
    });
    save(&store, vec![new(1, None), of_other, new(2, None)], KEEP).await;
    save(&store, vec![DefinitionChange::Gone(vm()), DefinitionChange::Gone(Uuid::nil())], KEEP)
        .await;
    assert_eq!(numbers(&store).await, [0u64; 0]);
    assert_eq!(xml(&store, 1).await, None);
    assert_eq!(store.definition_heads().await.unwrap(), [(other, 9)]);
    save(&store, vec![new(3, None)], KEEP).await;
    assert_eq!(numbers(&store).await, [1], "another VM, another history");
    assert!(store.clear_definitions().await.unwrap());
    assert!(!store.clear_definitions().await.unwrap());
    assert_eq!(store.definitions(other, None, 1).await.unwrap(), (vec![], 0));
}
