//! Uploads and downloads where libvirt has no streams: refused before anything is made.

#[path = "support/driver.rs"]
mod driver;

use driver::World;
use http::Method;

const POOL: &str = "/api/v1/virtualization/storages/pools/default";

#[tokio::test(flavor = "multi_thread")]
async fn without_streams_nothing_is_begun() {
    let world = World::new().await;
    let before = world.get(&format!("{POOL}/volumes")).await.json();
    let headers = [("upload-length", "5")];
    let path = format!("{POOL}/volumes/new.img/upload");
    let reply = world.send(Method::POST, &path, &headers, None).await;
    reply.refused(422, "NOT_SUPPORTED");
    let headers = [
        ("tus-resumable", "1.0.0"),
        ("upload-length", "5"),
        ("upload-metadata", "filename bmV3LmltZw=="),
    ];
    let path = format!("{POOL}/volumes/uploads");
    world.send(Method::POST, &path, &headers, None).await.refused(422, "NOT_SUPPORTED");
    assert_eq!(world.get(&path).await.json()["data"]["count"], 0);
    assert_eq!(world.get(&format!("{POOL}/volumes")).await.json(), before);
    let id = "00000000-0000-7000-8000-000000000000";
    let headers = [("tus-resumable", "1.0.0")];
    let reply = world.send(Method::DELETE, &format!("{path}/{id}"), &headers, None).await;
    reply.refused(404, "UPLOAD_NOT_FOUND");
    world.get(&format!("{POOL}/volumes/no.img/download")).await.refused(404, "VOLUME_NOT_FOUND");
    world.stop().await;
}
