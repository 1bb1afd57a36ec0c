package kubeletapi

import "fmt"

// Refusal is why a request is not served, told to whoever sent it.
type Refusal struct {
	// Status is the HTTP status it is answered with.
	Status  int
	Message string
}

func (r *Refusal) Error() string { return r.Message }

// Refuse makes a Refusal.
func Refuse(status int, format string, arguments ...any) error {
	return &Refusal{Status: status, Message: fmt.Sprintf(format, arguments...)}
}
