package engine

// LoseEvents makes a link deaf: what events enqueue is lost, as it would be by a fault
// of the program. The caches go on. hear ends it.
func (l *Link) LoseEvents() (hear func()) {
	<-l.engine.down.Remove(l)
	<-l.engine.up.Remove(l)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.announce()
	}
}
