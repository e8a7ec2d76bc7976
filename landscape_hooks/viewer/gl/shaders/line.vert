// One segment of a thick line: a quad around it in the picture, cut off at the near plane. A segment is an instance
// of four vertices, or (in a browser) four vertices one after the other.
in vec3 a;
in vec3 b;
in vec4 color_a;
in vec4 color_b;
in vec2 along;                  // place of both ends along the line
in float width;                 // pixels
uniform mat4 matrix;
uniform vec2 viewport;
uniform vec2 origin;            // lower left of the viewport in the framebuffer
uniform vec3 eye;
uniform vec3 forward;
uniform int orthographic;
uniform float lift;             // share of the way to the eye, so that a line on a surface is seen
uniform float line_scale;
uniform float grow;             // pixels added to the width: the casing
flat out vec2 f_a;
flat out vec2 f_b;
flat out float f_half;
out vec4 v_color;
out float v_along;

vec3 towards_eye(vec3 p) {
    return orthographic == 1 ? p - forward * lift * 4.0 : p + (eye - p) * lift;
}

void main() {
    vec4 p = matrix * vec4(towards_eye(a), 1.0);
    vec4 q = matrix * vec4(towards_eye(b), 1.0);
    float s = along.x, t = along.y;
    vec4 color_p = color_a, color_q = color_b;
    float near_p = p.z + p.w, near_q = q.z + q.w;
    if (near_p < 1e-4 && near_q < 1e-4) {
        gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
        f_a = f_b = vec2(0.0); f_half = 0.0; v_color = vec4(0.0); v_along = 0.0;
        return;
    }
    if (near_p < 1e-4) {
        float k = (1e-4 - near_p) / (near_q - near_p);
        p = mix(p, q, k); s = mix(s, t, k); color_p = mix(color_p, color_q, k);
    } else if (near_q < 1e-4) {
        float k = (1e-4 - near_q) / (near_p - near_q);
        q = mix(q, p, k); t = mix(t, s, k); color_q = mix(color_q, color_p, k);
    }
    vec2 from = (p.xy / p.w * 0.5 + 0.5) * viewport;
    vec2 to = (q.xy / q.w * 0.5 + 0.5) * viewport;
    vec2 direction = to - from;
    float extent = length(direction);
    direction = extent > 1e-4 ? direction / extent : vec2(1.0, 0.0);
    vec2 across = vec2(-direction.y, direction.x);
    float half_width = 0.5 * (width + grow) * line_scale;
    float pad = half_width + 1.0;
    bool second = (gl_VertexID & 2) != 0;
    float side = (gl_VertexID & 1) == 1 ? 1.0 : -1.0;
    vec2 corner = (second ? to + direction * pad : from - direction * pad) + across * side * pad;
    float depth = second ? q.z / q.w : p.z / p.w;
    gl_Position = vec4(corner / viewport * 2.0 - 1.0, depth, 1.0);
    f_a = from + origin;
    f_b = to + origin;
    f_half = half_width;
    v_color = second ? color_q : color_p;
    v_along = second ? t : s;
}
