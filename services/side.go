package services

import "sync/atomic"

// Side is one of a Session's connections, and how far it has ended. Only the
// session's loop changes it.
type Side struct {
	Conn Conn
	EOF  bool  // the peer's FIN was read
	FIN  bool  // ours was sent, behind everything written
	died How   // the peer reset it, it timed out, or another error; "" while alive
	cut  bool  // we reset it
	Beat *Beat // asks this peer whether its application lives; or nil

	received atomic.Int64 // bytes read from the peer
	sent     atomic.Int64 // bytes its send buffer took
}

// Present reports whether there is a connection.
func (s *Side) Present() bool { return s.Conn != nil }

// Sent counts bytes written outside of a Pipe.
func (s *Side) Sent(n int) { s.sent.Add(int64(n)) }

// Ended reports whether both directions have ended with FIN; a side without a
// connection has.
func (s *Side) Ended() bool { return s.Conn == nil || s.EOF && s.FIN }

// CloseWrite sends our FIN, once.
func (s *Side) CloseWrite() error {
	if s.FIN {
		return nil
	}
	s.FIN = true
	return s.Conn.CloseWrite()
}

// acked reports whether our FIN was acknowledged, and over whether no more can
// be hoped for.
func (s *Side) acked() (acked, over bool) {
	if s.Conn == nil {
		return true, true
	}
	if s.Conn.FinAcked() {
		return true, true
	}
	return false, s.Conn.State() == "CLOSED"
}

// lingered reports whether nothing of ours is outstanding any more.
func (s *Side) lingered() bool { return s.Conn == nil || s.FIN && s.Conn.FinAcked() }

// release lets go of the connection, gently if both ends agree that it has
// ended, else, or by force, with RST.
func (s *Side) release(force bool) {
	switch {
	case s.Conn == nil:
	case !force && s.EOF && s.FIN && s.Conn.FinAcked():
		// Close fails only on a connection that is closed already.
		_ = s.Conn.Close()
	default:
		s.cut = s.died == ""
		s.Conn.Abort()
	}
}

// death reports the error of a connection that has ended without telling its
// reader: one that is not read now, because the other side is slow or because
// its FIN was read before.
func (s *Side) death() error {
	err := s.Conn.Established()
	if err == nil || err == ErrWouldBlock {
		return nil
	}
	if s.FIN && s.Conn.FinAcked() {
		return nil // it ended well; what is unread can still be read
	}
	return err
}
