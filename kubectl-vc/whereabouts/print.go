package whereabouts

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"
)

// Write writes an explanation for people.
func (e Explanation) Write(out io.Writer, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "Virtual cluster:\t%s\n", e.VirtualCluster)
	fmt.Fprintf(w, "Pod:\t%s\n", e.Pod)
	fmt.Fprintf(w, "Super pod:\t%s\n", e.SuperPod)
	fmt.Fprintf(w, "Node:\t%s\n", orNone(e.Node))
	fmt.Fprintf(w, "Phase:\t%s\n", orNone(e.Phase))
	fmt.Fprintln(w)
	fmt.Fprintln(w, "STEP\tSTATE\tSINCE\tDETAIL")
	for _, step := range e.Steps {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", step.Name, step.State, since(step.Since, now), step.Detail)
	}
	fmt.Fprintln(w)
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing the explanation: %w", err)
	}
	waits := e.WaitsFor
	switch {
	case waits == "":
		waits = "nothing"
	case e.Since != nil:
		waits += " (" + since(e.Since, now) + ")"
	}
	if _, err := fmt.Fprintf(out, "waits for: %s\n", waits); err != nil {
		return fmt.Errorf("writing the explanation: %w", err)
	}
	return nil
}

// since is how long ago something was, or how long it has yet.
func since(at *time.Time, now time.Time) string {
	switch {
	case at == nil || at.IsZero():
		return "-"
	case at.After(now):
		return duration.HumanDuration(at.Sub(now)) + " to go"
	}
	return duration.HumanDuration(now.Sub(*at))
}

func orNone(text string) string {
	if text == "" {
		return "<none>"
	}
	return text
}
