package vtep

// Tell hands an event to those who follow events, such as of a peer that is heard: who looks at
// the endpoint sees it. It never waits.
func (e *Endpoint) Tell(event Event) {
	if e.events.wanted() {
		e.events.send(event)
	}
}
