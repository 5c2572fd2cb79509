//! What systemd is told and what it hands over.
