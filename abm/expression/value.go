package expression

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

// maxDepth is how deep values and templates may be nested.
const maxDepth = 64

// toJSON makes of a CEL value what Kubernetes' unstructured objects hold.
func toJSON(value ref.Val, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errors.New("the value is nested too deep")
	}
	switch v := value.(type) {
	case types.Null:
		return nil, nil
	case types.Bool:
		return bool(v), nil
	case types.Int:
		return int64(v), nil
	case types.Uint:
		if uint64(v) > math.MaxInt64 {
			return nil, fmt.Errorf("%d is too large", uint64(v))
		}
		return int64(v), nil
	case types.Double:
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return nil, fmt.Errorf("%v is no number of JSON", float64(v))
		}
		return float64(v), nil
	case types.String:
		return string(v), nil
	case types.Bytes:
		return base64.StdEncoding.EncodeToString(v), nil
	case types.Timestamp:
		return v.Format(time.RFC3339Nano), nil
	case types.Duration:
		return v.String(), nil
	case *types.Optional:
		if !v.HasValue() {
			return nil, errAbsent
		}
		return toJSON(v.GetValue(), depth+1)
	case traits.Mapper:
		return mapToJSON(v, depth)
	case traits.Lister:
		return listToJSON(v, depth)
	default:
		return nil, fmt.Errorf("the result is %s, which has no place in an object: make a string of it", value.Type().TypeName())
	}
}

func mapToJSON(m traits.Mapper, depth int) (any, error) {
	result := map[string]any{}
	for i := m.Iterator(); i.HasNext() == types.True; {
		key := i.Next()
		name, ok := key.(types.String)
		if !ok {
			return nil, fmt.Errorf("a key is %s, and must be a string", key.Type().TypeName())
		}
		value, err := toJSON(m.Get(key), depth+1)
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return nil, err
		}
		result[string(name)] = value
	}
	return result, nil
}

func listToJSON(l traits.Lister, depth int) (any, error) {
	result := []any{}
	for i := l.Iterator(); i.HasNext() == types.True; {
		value, err := toJSON(i.Next(), depth+1)
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return nil, err
		}
		result = append(result, value)
	}
	return result, nil
}
