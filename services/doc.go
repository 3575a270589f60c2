// Package services runs what listens: it declares what it needs of a TCP
// connection (Conn, Listener, Network), drives all of them from one event loop
// per core (Loop), and starts, drains and stops Services in order (Supervisor).
//
// The way of a connection, one file per stage:
//
//	door.go     accepts it, within max_conns, and gives it to a loop
//	session.go  its record, in the shard of that loop (shard.go)
//	pipe.go     moves its bytes, with backpressure (side.go: one end of it)
//	end.go      finishes it: FIN both ways, or RST; waits for the last ACKs
//	ended.go    what is remembered of it, with the Reason it ended
//
// Server joins these to a Service; packages proxy and diag say what to do with
// the bytes. drain.go is the way of a shutdown.
//
// Nothing here blocks on a connection and no connection has a goroutine of its
// own: the only goroutines are one per Loop, which Loops.Close waits for, and
// during a drain one per Service, which Supervisor.Drain waits for. Loops must
// be closed after every Service.
package services
