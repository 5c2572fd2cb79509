#[path = "support/daemon.rs"]
mod daemon;
#[tokio::test(flavor = "multi_thread")]
#[ignore]
async fn serve() {
    let daemon = daemon::Daemon::start().await;
    println!("ADDR {} {}", daemon.tcp, daemon.socket.display());
    tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
}
