package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/bulkhead-dev/bulkhead/abm/expression"
	"github.com/bulkhead-dev/bulkhead/abm/service"
	"github.com/bulkhead-dev/bulkhead/abm/step"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// keepOutputs writes a step's outputs into its record.
func (p *pass) keepOutputs(ctx context.Context, s *service.Step, record *abmv1alpha1.StepRecord, progress step.Progress, values expression.Values) error {
	all := maps.Clone(values)
	maps.Copy(all, progress.Seen)
	outputs := map[string]any{}
	var secrets []abmv1alpha1.OutputStatus
	for i := range s.Outputs {
		output := &s.Outputs[i]
		if output.Value != nil {
			value, err := output.Value.String(ctx, all)
			if err != nil {
				return fmt.Errorf("output %s: %w", output.Name, err)
			}
			outputs[output.Name] = value
			continue
		}
		cluster := ""
		if record.Target != nil {
			cluster = record.Target.Name
		}
		ref, err := output.Reference(ctx, all, p.instance.Namespace, cluster)
		if err != nil {
			return fmt.Errorf("output %s: %w", output.Name, err)
		}
		secrets = append(secrets, abmv1alpha1.OutputStatus{Name: output.Name, Secret: ref})
	}
	data, err := json.Marshal(outputs)
	if err != nil {
		return fmt.Errorf("encoding outputs: %w", err)
	}
	record.Outputs, record.Secrets = &runtime.RawExtension{Raw: data}, secrets
	return nil
}

func decodeOutputs(record *abmv1alpha1.StepRecord) (map[string]any, error) {
	outputs := map[string]any{}
	if record.Outputs != nil && len(record.Outputs.Raw) > 0 {
		if err := utiljson.Unmarshal(record.Outputs.Raw, &outputs); err != nil {
			return nil, fmt.Errorf("reading the outputs in record %s: %w", record.Name, err)
		}
	}
	return outputs, nil
}

// showOutputs writes the instance's outputs into its status: those of the definition,
// and the references of its steps.
func (p *pass) showOutputs(ctx context.Context, values expression.Values) error {
	var shown []abmv1alpha1.OutputStatus
	for i := range p.service.Outputs {
		output := &p.service.Outputs[i]
		if output.Value == nil {
			ref, err := output.Reference(ctx, values, p.instance.Namespace, "")
			if err != nil {
				return p.blocked(fmt.Errorf("output %s: %w", output.Name, err))
			}
			shown = append(shown, abmv1alpha1.OutputStatus{Name: output.Name, Secret: ref})
			continue
		}
		value, err := output.Value.String(ctx, values)
		if err != nil {
			return p.blocked(fmt.Errorf("output %s: %w", output.Name, err))
		}
		shown = append(shown, abmv1alpha1.OutputStatus{Name: output.Name, Value: value})
	}
	p.instance.Status.Outputs = shown
	return nil
}
