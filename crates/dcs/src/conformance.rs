//! Checks that every backend passes against its real server.
