//! A value that several tasks watch, each over a channel of its own.
//!
//! One `tokio::sync::watch` channel wakes its receivers in an order drawn from a generator that cannot be seeded; one
//! channel per receiver is woken in the order of subscription.

use tokio::sync::watch;

/// See the module.
#[derive(Debug, Default)]
pub struct Fanout<T> {
    now: T,
    subscribers: Vec<watch::Sender<T>>,
}

impl<T: Copy> Fanout<T> {
    /// Follows the value from now on; for one waiting task, not to be cloned.
    pub fn subscribe(&mut self) -> watch::Receiver<T> {
        self.subscribers.retain(|subscriber| !subscriber.is_closed());
        let (sender, receiver) = watch::channel(self.now);
        self.subscribers.push(sender);
        receiver
    }

    /// Changes the value and wakes everybody.
    pub fn update(&mut self, change: impl FnOnce(&mut T)) {
        change(&mut self.now);
        for subscriber in &self.subscribers {
            subscriber.send_replace(self.now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subscriber_sees_the_change_and_the_dead_are_forgotten() {
        let mut value = Fanout::<u64>::default();
        let (first, second) = (value.subscribe(), value.subscribe());
        value.update(|count| *count += 1);
        assert_eq!((*first.borrow(), *second.borrow()), (1, 1));
        drop((first, second));
        let third = value.subscribe();
        assert_eq!((value.subscribers.len(), *third.borrow()), (1, 1));
    }
}
