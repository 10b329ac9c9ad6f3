-- Keeps a client's event for backends.
--
-- KEYS[i] their outboxes
-- ARGV[1] the user or connection that it is about    ARGV[2] its data    ARGV[3] how long an outbox that nobody adds to is kept, in ms

tell(KEYS, ARGV[3], 'client.event', ARGV[1], ARGV[2])
return #KEYS
